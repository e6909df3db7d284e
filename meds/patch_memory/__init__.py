"""Detectors that remember patches: embedding, coreset and distance of PatchCore, on which its relatives build."""
