"""WHAT settles: circuits, their energies, forces and local plasticity."""
