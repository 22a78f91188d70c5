"""The foundations: geometry, movement, devices and failures. User modules stand on these; nothing here knows of them."""
