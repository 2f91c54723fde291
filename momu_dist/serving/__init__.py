"""The service: samplers on Ray Serve behind an HTTP interface, and jobs that survive its restarts."""
