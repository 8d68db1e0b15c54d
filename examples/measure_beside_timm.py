"""Measure a timm model beside a hybrid of convolution and involution, on this device.

    python examples/measure_beside_timm.py

Both are timed by the same stopwatch in turns with a reference network, so drift of the machine
cancels; half a minute.
"""

import timm

import evolute


def main(settings: evolute.LatencySettings | None = None) -> dict[str, evolute.Latency]:
    settings = settings or evolute.LatencySettings(threads=1)
    space, _ = evolute.reference_architecture("evolute_resnet26")
    hybrid = tuple("inv7" if layer.stage >= 2 else "conv3" for layer in space.layers)
    networks = {
        "timm resnet26d": timm.create_model("resnet26d"),
        "convolution early, involution late": evolute.build_network(space, hybrid),
    }
    latencies = {}
    for name, network in networks.items():
        latency = latencies[name] = evolute.measure_latency(network, (3, 112, 112), settings)
        params, macs = evolute.count_params(network), evolute.count_macs(network, (1, 3, 112, 112))
        print(f"{name}: {latency.median_ms:.2f} ms, {params / 1e6:.1f} M, {macs / 1e9:.2f} G MACs")
    return latencies


if __name__ == "__main__":
    main()
