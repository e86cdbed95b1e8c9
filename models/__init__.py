"""Networks: generators, classifiers, and Chainer's place in a modern Python.

Importing anything of `models` first makes Chainer importable (see `models.compatibility`).
"""

from models import compatibility

compatibility.apply()
