"""Measurements of the recurrent engine: memory, time, and the solvers of the adjoint system."""
