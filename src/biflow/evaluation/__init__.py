"""How good videos are, in numbers that can be compared.

`i3d` turns clips into features, `inception` images (`efficientnet` too, in a hurry), and `lpips` compares images;
`weights` gets what they have learned, by way of `convert`. `windows` reads sets of videos as clips, `distances`
compares sets of features, `fvd` does all of it and says by which protocol.
"""
