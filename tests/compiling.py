"""How programs of tests are compiled."""

# They run once or twice: what LLVM would make of them is not worth the time that it takes.
FAST = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
