"""The cloud drivers that Salt's loader finds in this extension."""
