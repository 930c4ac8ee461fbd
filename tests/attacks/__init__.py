"""Messages of attackers and steps of cheating agents, one row each, against the runtime as it is served."""
