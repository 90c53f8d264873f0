"""Installed as `cimc.examples`: the network and the test images that `cimc demo` takes."""
