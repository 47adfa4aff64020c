"""Options for compiling the programs of tests."""

# They run once or twice, so LLVM's optimizations take longer than they save.
FAST = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
