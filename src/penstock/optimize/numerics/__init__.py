"""The parts that need the extra ``optimize``: thin layers over the libraries that do the numerics."""
