"""From clips to windows of frames.

`fetch` downloads the paper's datasets. `clips` finds the clips of a source, and `readers` reads them. `prepare` writes
them as one memory-mapped array. Training draws `windows` from it; streams start from `first_frames`.
"""
