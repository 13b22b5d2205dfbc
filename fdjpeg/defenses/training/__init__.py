"""The engine that trains defences: settings, images, objectives, and runs that resume."""
