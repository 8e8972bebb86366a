"""Checks everything that a working set-up needs: `look` collects facts, the others judge them."""
