"""Do the frameworks that people use get by with a gateway in between?"""
