"""The operator command: brings the whole stack up, shows it, and takes it down."""
