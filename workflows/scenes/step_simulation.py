"""One step of the bouncing balls: python3 step_simulation.py STATES OUT-STATE FRAME

STATES is a folder with the state of the frame before, or an empty one: then the balls start. A state file works as well.
A state file is what a render step's `state` takes: {data path: value}. The velocities are beside it under "velocities",
so that the next frame goes on from this one. Only + - * / and sqrt: every machine computes the same digits.
"""
import json
import os
import sys

HALF, COUNT, FPS, STEPS, GRAVITY, BOUNCE = 2.2, 14, 24, 8, 9.81, 0.82


def initial():
    seed, balls = 20231, []

    def draw():
        nonlocal seed
        seed = (seed * 1103515245 + 12345) % 2 ** 31
        return seed / 2 ** 31

    for i in range(COUNT):
        radius = 0.20 + 0.16 * draw()
        balls.append({"radius": radius, "at": [-1.5 + i % 4, -1.5 + i // 4, 1.2 + 1.8 * draw()], "velocity": [4 * draw() - 2, 4 * draw() - 2, 0.0]})
    return balls


def step(balls, dt):
    for ball in balls:
        ball["velocity"][2] -= GRAVITY * dt
        for axis in range(3):
            ball["at"][axis] += ball["velocity"][axis] * dt
            low, high = (ball["radius"], 1e9) if axis == 2 else (ball["radius"] - HALF, HALF - ball["radius"])
            if not low <= ball["at"][axis] <= high:
                ball["at"][axis] = min(max(ball["at"][axis], low), high)
                ball["velocity"][axis] *= -BOUNCE
    for i, one in enumerate(balls):
        for other in balls[:i]:
            away = [a - b for a, b in zip(one["at"], other["at"])]
            distance, reach = sum(d * d for d in away) ** 0.5, one["radius"] + other["radius"]
            if not 0 < distance < reach:
                continue
            normal = [d / distance for d in away]
            m1, m2 = one["radius"] ** 3, other["radius"] ** 3
            closing = sum((a - b) * n for a, b, n in zip(one["velocity"], other["velocity"], normal))
            push = -(1 + BOUNCE) * closing / (m1 + m2) if closing < 0 else 0.0
            for axis in range(3):
                one["at"][axis] += normal[axis] * (reach - distance) * m2 / (m1 + m2)
                other["at"][axis] -= normal[axis] * (reach - distance) * m1 / (m1 + m2)
                one["velocity"][axis] += normal[axis] * push * m2
                other["velocity"][axis] -= normal[axis] * push * m1


def main(before, after, frame):
    balls = initial()
    if os.path.isdir(before):
        before = next((os.path.join(before, name) for name in os.listdir(before)), None)
    if before:
        with open(before, encoding="utf-8") as file:
            state = json.load(file)
        if state["frame"] != frame - 1:
            sys.exit(f"{before} is the state of frame {state['frame']}, and frame {frame} needs that of {frame - 1}")
        for i, ball in enumerate(balls):
            ball["at"], ball["velocity"] = state["set"][f'objects["Ball.{i:03}"].location'], state["velocities"][i]
        for _ in range(STEPS):
            step(balls, 1 / (FPS * STEPS))
    state = {"frame": frame, "set": {f'objects["Ball.{i:03}"].location': ball["at"] for i, ball in enumerate(balls)},
             "velocities": [ball["velocity"] for ball in balls]}
    with open(after, "w", encoding="utf-8") as file:
        json.dump(state, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
