"""Loss terms as pure functions of network outputs."""
