"""The foundations: geometry, movement, devices, failures. User modules stand on these; nothing here knows of them."""
