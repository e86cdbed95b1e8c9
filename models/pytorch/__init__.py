"""PyTorch on both sides: its modules as classifiers, attack networks as its modules.

`attack_network` stands alone: it is copied beside an exported network and needs torch and nothing else.
Nothing here is imported before a torch or ONNX classifier, or an export, is asked for.
"""
