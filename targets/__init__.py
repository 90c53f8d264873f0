"""Hardware descriptions, one TOML file each; installed as `cimc.targets`."""
