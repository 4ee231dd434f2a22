"""How good videos are, in numbers that can be compared.

`evaluate` measures a model by a `protocol`: it generates videos and computes features of them (`jobs`, `networks`), and
compares these with features of real videos (`metrics`, `distances`). `fvd` compares two sets of videos,
which `windows` reads. `report` writes tables, plots and a page.
"""
