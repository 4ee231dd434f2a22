"""Clips in, pairs of frames out.

`published` and `fetch` get the published sets, `clips` finds and reads clips of any form, `prepare` turns them into one
memory-mapped array, `pairs` is what training draws from, `maze` renders the project's own set.
"""
