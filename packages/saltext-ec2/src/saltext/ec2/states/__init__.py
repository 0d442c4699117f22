"""The states that Salt's loader finds in this extension."""
