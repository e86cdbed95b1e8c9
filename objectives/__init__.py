"""Where study and models meet: suggest a spec, train it, report it."""

import models  # noqa: F401  Chainer must be patched before any module here imports it
