"""Options for compiling the programs of tests."""

import functools

import jax

# They run once or twice, so LLVM's optimizations take longer than they save.
FAST = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
    'xla_cpu_parallel_codegen_split_count': 1,  # compile one module, not 32
}
if jax.__version_info__ < (0, 11):  # later ones have no other way
    FAST['xla_cpu_use_fusion_emitters'] = False  # half of the time to compile

jit = functools.partial(jax.jit, compiler_options=FAST)
