"""Models of the protocols, explored exhaustively; see docs/design/models.md.

A family has MODELS, which hold; CONTROLS, each with a mistake that the explorer must find; and
MIRRORS, which tie it to the C sources; `graph` has TIES to Python sources instead.
"""

from . import bridge, bus, graph, lock, park, revoke, ring, store, stream

FAMILIES = (ring, lock, park, revoke, stream, store, bus, bridge, graph)
