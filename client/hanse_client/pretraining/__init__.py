"""Pre-training on public histories or made-up shoppers, before a federation begins.

Only public data may be used, as nothing is clipped or noised: a checkpoint can reveal its
training data, and no federation's epsilon covers them. Items are represented by the text
vectors of the frozen encoder, so that a checkpoint can be used with another catalogue.

Made-up shoppers (`category_base.py`) contain no person's data: a base that learnt from them
reveals nothing of anyone, and needs no epsilon.
"""
