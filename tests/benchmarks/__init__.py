"""How fast aectl is beside other ways of training the same network: `make bench`."""
