"""Parts of scripts/e2e-django. Standard library only."""
