#!/bin/sh
# Print the revision of the tree that was last rolled out to the end. Print nothing without one.
# Arguments: FOLDER
cat "$1/converged" 2>/dev/null || true
