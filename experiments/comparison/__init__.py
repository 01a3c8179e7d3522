"""Several runs beside each other: jobs, tables, charts and ablations."""
