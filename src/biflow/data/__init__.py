"""From clips to windows of frames.

`fetch` downloads the paper's datasets. `clips` finds the clips of a source, and `readers` reads them. `prepare` writes
them as one memory-mapped array. `windows` are what training draws from it, and the first frames of streams.
"""
