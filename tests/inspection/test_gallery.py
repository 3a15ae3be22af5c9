import random

from semiscope.inspection.gallery import Gallery


def row(*defects):
    return {
        "file": "x",
        "defects": [{"disposition": d, "score": s} for d, s in defects],
        "crops": {str(i): ([0, 0, 1, 1], "jpeg") for i in range(len(defects))},
    }


def test_review_comes_first_then_score():
    gallery = Gallery(3)
    for r in (row(("accept", 0.9)), row(("review", 0.4), ("accept", 0.99)), row(("review", 0.5))):
        gallery.admit(r)
    assert gallery.chosen() == [(2, 0), (1, 0), (1, 1)]


def test_equal_ranks_go_by_place():
    gallery = Gallery(2)
    for _ in range(3):
        gallery.admit(row(("accept", 0.5)))
    assert gallery.chosen() == [(0, 0), (1, 0)]


def test_every_chosen_defect_was_a_candidate_and_kept_its_picture():
    draw = random.Random(0)
    rows = [
        row(
            *(
                (draw.choice(["accept", "review"]), round(draw.random(), 1))
                for _ in range(draw.randrange(5))
            )
        )
        for _ in range(200)
    ]
    gallery = Gallery(20)
    # as in the pipeline, candidates are asked for some rows before the row is admitted
    asked = []
    for i in range(len(rows)):
        while len(asked) < min(i + 8, len(rows)):
            asked.append(gallery.candidates(rows[len(asked)]))
        gallery.admit(rows[i])
    everything = sorted(
        (
            (d["disposition"] == "review", d["score"], -i, -k)
            for i, r in enumerate(rows)
            for k, d in enumerate(r["defects"])
        ),
        reverse=True,
    )
    assert gallery.chosen() == [(-i, -k) for *_, i, k in everything[:20]]
    assert all(k in asked[i] and str(k) in rows[i]["crops"] for i, k in gallery.chosen())
    assert sum(len(r["crops"]) for r in rows) < len(everything) / 2


def test_no_gallery_at_all():
    gallery = Gallery(0)
    assert gallery.candidates(row(("review", 0.5))) == []
    gallery.admit(row(("review", 0.5)))
    assert gallery.chosen() == []
