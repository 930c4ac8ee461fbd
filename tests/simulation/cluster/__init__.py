"""Many nodes over one store: real ownership, a model of the store, nodes that pause, die and come back."""
