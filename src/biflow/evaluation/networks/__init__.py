"""The networks whose features are compared: I3D (FVD), Inception (FID) and LPIPS.

`features` turns each into a `Features`, a function from clips to features. `weights` downloads trained weights and
`convert` converts them.
"""
