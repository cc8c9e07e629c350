"""A forecast, not a measurement: how N machines share a step, from the figures of one.

python benchmarks/cluster_forecast.py --tokens_per_s 300 --trained_parameters 460800 --tokens_per_step_and_node 3280

A ring all-reduce of B bytes over N machines sends 2 (N - 1) / N B over each link, in 2 (N - 1) messages (Patarasuk and
Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009). Efficiency is the speed of N
machines over N times that of one, when each machine gets as many tokens a step as the one had.
"""

from __future__ import annotations

import argparse

from neuralchat.planning.forecast import TimeForecast, ring

NODES = (1, 2, 4, 8, 16, 32, 64)
GBIT = (1, 10, 25, 100)


def efficiency(options: argparse.Namespace, nodes: int, gbit_per_s: float) -> float:
    forecast = TimeForecast(
        steps=1,
        tokens_per_step=options.tokens_per_step_and_node * nodes,
        seconds_per_token=1 / options.tokens_per_s,
        world_size=nodes,
        gradient_bytes=4 * options.trained_parameters,
        link=ring(nodes, gbit_per_s, options.latency_us * 1e-6),
    )
    return 1 - forecast.communication_share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens_per_s", type=float, required=True, help="of one machine")
    parser.add_argument("--trained_parameters", type=int, required=True)
    parser.add_argument("--tokens_per_step_and_node", type=float, required=True)
    parser.add_argument("--latency_us", type=float, default=50)
    options = parser.parse_args()
    print(f"| machines | {' | '.join(f'{gbit} Gbit/s' for gbit in GBIT)} |")
    print(f"|---|{'---|' * len(GBIT)}")
    for nodes in NODES:
        print(f"| {nodes} | {' | '.join(f'{efficiency(options, nodes, gbit):.1%}' for gbit in GBIT)} |")


if __name__ == "__main__":
    main()
