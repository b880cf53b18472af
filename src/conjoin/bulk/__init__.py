"""Bulk generation: any number of sources, by one process or many, here or elsewhere; interrupted and resumed."""
