"""Search a table of known results: no supernet, no images, no Ray; seconds.

    python examples/search_a_table.py

Replace the table by a simulator or a remote device: a search needs a space, and a callable that
turns an architecture into numbers.
"""

import itertools

import evolute

MILLISECONDS = {"conv3": 1.0, "inv7": 0.7, "skip": 0.1}
POINTS = {"conv3": 4.0, "inv7": 3.6, "skip": 0.0}


def measured(architecture: evolute.Architecture) -> dict[str, float]:
    """Make up the numbers that a real table would hold."""
    gains = [POINTS[name] / (1 + layer / 8) for layer, name in enumerate(architecture)]
    latency = sum(MILLISECONDS[name] for name in architecture)
    return {"accuracy": 60 + sum(gains), "latency_ms": latency}


TABLE = {choices: measured(choices) for choices in itertools.product(MILLISECONDS, repeat=8)}


def main() -> evolute.SearchResult:
    result = evolute.run_search(
        evolute.ChoiceSpace([list(MILLISECONDS)] * 8),
        TABLE.__getitem__,
        {"accuracy": "maximize", "latency_ms": "minimize"},
        constraints={"latency_ms": 5.0},
        trials=150,
        sampler="evolution",
        workers=0,  # in this process
    )
    for record in result.front:
        accuracy, latency = record.metrics["accuracy"], record.metrics["latency_ms"]
        print(f"{accuracy:.2f} %  {latency:.1f} ms  {' '.join(record.architecture)}")
    return result


if __name__ == "__main__":
    main()
