"""Mutation testing of the conformance kit: rules with one small mistake each, and whether a check sees it.

``operators`` makes the mistakes, ``catalogue`` says where, ``transplant`` turns a changed source into a rule that runs
beside the right one, ``trial`` holds it to the kit, and ``python -m tests.mutants.run`` does all of it and writes
``survivors.md``.
"""
