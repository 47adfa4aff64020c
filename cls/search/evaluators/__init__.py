"""What a trial is worth: callables from a trial to metrics, that processes can send each other."""
