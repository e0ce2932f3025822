"""How each driver's connections are spoken to. Importing one imports that driver and no other."""
