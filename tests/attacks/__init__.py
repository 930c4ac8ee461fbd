"""What attackers send and cheating agents try, one row each, against the runtime as it is served."""
