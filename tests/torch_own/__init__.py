"""torch's own optimizer, scheduler and averaging tests, run with our classes in place of torch's."""
