"""The rooms that every other part knows: contracts, registry, spec, plan, artifacts, runner."""
