"""The harness of the bench; standard library only."""
