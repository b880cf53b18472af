"""NLLB-200: BPE with the codes of 202 languages after the vocabulary."""

from collections.abc import Mapping
from typing import ClassVar

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from conjoin.tokenizer.families import FAIRSEQ, SPACE, name_of
from conjoin.tokenizer.formats.read import Vocabulary
from conjoin.tokenizer.formats.settings import Settings, Token, text_of
from conjoin.tokenizer.multilingual import WithLanguages
from conjoin.tokenizer.rust import add

# fmt: off
NLLB_LANGUAGES = (
    "ace_Arab", "ace_Latn", "acm_Arab", "acq_Arab", "aeb_Arab", "afr_Latn", "ajp_Arab", "aka_Latn", "amh_Ethi",
    "apc_Arab", "arb_Arab", "ars_Arab", "ary_Arab", "arz_Arab", "asm_Beng", "ast_Latn", "awa_Deva", "ayr_Latn",
    "azb_Arab", "azj_Latn", "bak_Cyrl", "bam_Latn", "ban_Latn", "bel_Cyrl", "bem_Latn", "ben_Beng", "bho_Deva",
    "bjn_Arab", "bjn_Latn", "bod_Tibt", "bos_Latn", "bug_Latn", "bul_Cyrl", "cat_Latn", "ceb_Latn", "ces_Latn",
    "cjk_Latn", "ckb_Arab", "crh_Latn", "cym_Latn", "dan_Latn", "deu_Latn", "dik_Latn", "dyu_Latn", "dzo_Tibt",
    "ell_Grek", "eng_Latn", "epo_Latn", "est_Latn", "eus_Latn", "ewe_Latn", "fao_Latn", "pes_Arab", "fij_Latn",
    "fin_Latn", "fon_Latn", "fra_Latn", "fur_Latn", "fuv_Latn", "gla_Latn", "gle_Latn", "glg_Latn", "grn_Latn",
    "guj_Gujr", "hat_Latn", "hau_Latn", "heb_Hebr", "hin_Deva", "hne_Deva", "hrv_Latn", "hun_Latn", "hye_Armn",
    "ibo_Latn", "ilo_Latn", "ind_Latn", "isl_Latn", "ita_Latn", "jav_Latn", "jpn_Jpan", "kab_Latn", "kac_Latn",
    "kam_Latn", "kan_Knda", "kas_Arab", "kas_Deva", "kat_Geor", "knc_Arab", "knc_Latn", "kaz_Cyrl", "kbp_Latn",
    "kea_Latn", "khm_Khmr", "kik_Latn", "kin_Latn", "kir_Cyrl", "kmb_Latn", "kon_Latn", "kor_Hang", "kmr_Latn",
    "lao_Laoo", "lvs_Latn", "lij_Latn", "lim_Latn", "lin_Latn", "lit_Latn", "lmo_Latn", "ltg_Latn", "ltz_Latn",
    "lua_Latn", "lug_Latn", "luo_Latn", "lus_Latn", "mag_Deva", "mai_Deva", "mal_Mlym", "mar_Deva", "min_Latn",
    "mkd_Cyrl", "plt_Latn", "mlt_Latn", "mni_Beng", "khk_Cyrl", "mos_Latn", "mri_Latn", "zsm_Latn", "mya_Mymr",
    "nld_Latn", "nno_Latn", "nob_Latn", "npi_Deva", "nso_Latn", "nus_Latn", "nya_Latn", "oci_Latn", "gaz_Latn",
    "ory_Orya", "pag_Latn", "pan_Guru", "pap_Latn", "pol_Latn", "por_Latn", "prs_Arab", "pbt_Arab", "quy_Latn",
    "ron_Latn", "run_Latn", "rus_Cyrl", "sag_Latn", "san_Deva", "sat_Beng", "scn_Latn", "shn_Mymr", "sin_Sinh",
    "slk_Latn", "slv_Latn", "smo_Latn", "sna_Latn", "snd_Arab", "som_Latn", "sot_Latn", "spa_Latn", "als_Latn",
    "srd_Latn", "srp_Cyrl", "ssw_Latn", "sun_Latn", "swe_Latn", "swh_Latn", "szl_Latn", "tam_Taml", "tat_Cyrl",
    "tel_Telu", "tgk_Cyrl", "tgl_Latn", "tha_Thai", "tir_Ethi", "taq_Latn", "taq_Tfng", "tpi_Latn", "tsn_Latn",
    "tso_Latn", "tuk_Latn", "tum_Latn", "tur_Latn", "twi_Latn", "tzm_Tfng", "uig_Arab", "ukr_Cyrl", "umb_Latn",
    "urd_Arab", "uzn_Latn", "vec_Latn", "vie_Latn", "war_Latn", "wol_Latn", "xho_Latn", "ydd_Hebr", "yor_Latn",
    "yue_Hant", "zho_Hans", "zho_Hant", "zul_Latn",
)
# fmt: on


class NllbTokenizer(WithLanguages):
    """Ids shifted by one for fairseq (NLLB team 2022, arXiv:2207.04672). Frame: `eng_Latn A </s>`.

    With `legacy_behaviour`, the frame of the first release, `A </s> eng_Latn`; what is generated begins with the
    target's code all the same.
    """

    kind = "BPE"
    vocabulary_files = ("sentencepiece.bpe.model",)
    saved_class = "NllbTokenizer"
    languages = NLLB_LANGUAGES
    default_language = "eng_Latn"
    defaults: ClassVar[Mapping[str, Token | None]] = {
        **FAIRSEQ,
        "mask_token": AddedToken("<mask>", lstrip=True, normalized=True, special=True),
    }

    @classmethod
    def build(cls, vocabulary: Vocabulary, settings: Settings) -> Backend:
        """Build the pipeline; the codes and <mask> follow the pieces, as in the checkpoints."""
        unknown, ids, merges = name_of(settings, "unk_token"), vocabulary.ids, vocabulary.merges
        if vocabulary.from_sentencepiece:
            names = ("bos_token", "pad_token", "eos_token", "unk_token")
            ids = dict.fromkeys([*(name_of(settings, name) for name in names), *vocabulary.ids])
            ids = {piece: index for index, piece in enumerate(ids)}
        backend = Backend(models.BPE(ids, merges, unk_token=unknown, fuse_unk=True))
        if vocabulary.charsmap is not None:
            table = normalizers.Precompiled(vocabulary.charsmap)
            backend.normalizer = normalizers.Sequence([table, normalizers.Replace(Regex(" {2,}"), " ")])
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True)
        backend.decoder = decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
        if vocabulary.from_sentencepiece and not settings.added:
            listed = [text_of(token) for token in settings.extra or []]
            codes = [code for code in dict.fromkeys([*cls.languages, *listed])]
            add(backend, [AddedToken(code, normalized=False, special=True) for code in codes], special=True)
        return backend

    @classmethod
    def extra_tokens(cls, listed: list[Token] | None, settings: Settings) -> list[Token] | None:
        known = {text_of(token) for token in settings.named.values() if token is not None}
        others = [token for token in listed or [] if text_of(token) not in cls.languages]
        return [*cls.languages, *(token for token in others if text_of(token) not in known)]

    def finish(self) -> None:
        """Frame texts as `legacy_behaviour` says: the checkpoints' tokenizer.json has the first release's frame."""
        super().finish()
        self.frame()

    @property
    def frames_itself(self) -> bool:
        return True

    def target_leads(self) -> bool:
        return True

    def _around(self, eos: str, code: str) -> tuple[list[str], list[str]]:
        return ([], [eos, code]) if self.settings.options.get("legacy_behaviour") else ([code], [eos])


NllbTokenizerFast = NllbTokenizer
