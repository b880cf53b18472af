"""report.html of a run, drawn from its metrics.jsonl and attention.json."""
