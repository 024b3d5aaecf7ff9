"""Data sets prepared by TFDS without TensorFlow, for tests."""

import io
import warnings

import pytest
from PIL import Image


def encoded(pixels, form="png"):
    """Pixels as the bytes of a file: TFDS encodes arrays with TensorFlow, but stores bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def prepare_birds(folder, splits, classes=("001.Auk", "002.Bunting"), file_format="array_record"):
    """Prepares a set under the name and with the features of TFDS's own of the birds.

    Args:
      folder: To prepare it in.
      splits: Of each split a list of ``(image bytes, label, (top, left, bottom, right))``.
      classes: Their names.
      file_format: As TFDS calls it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfds = pytest.importorskip("tensorflow_datasets")
        with tfds.core.registered.skip_registration():

            class CaltechBirds2011(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version("0.1.1")
                code_path = None  # There are no checksums of downloads beside this file.

                def _info(self):
                    features = {
                        "image": tfds.features.Image(),
                        "image/filename": tfds.features.Text(),
                        "label": tfds.features.ClassLabel(names=classes),
                        "label_name": tfds.features.Text(),
                        "bbox": tfds.features.BBoxFeature(),
                        "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
                    }
                    return tfds.core.DatasetInfo(
                        builder=self, features=tfds.features.FeaturesDict(features)
                    )

                def _split_generators(self, _):
                    return {split: self._generate_examples(split) for split in splits}

                def _generate_examples(self, split):
                    for index, (image, label, bbox) in enumerate(splits[split]):
                        yield (
                            index,
                            {
                                "image": image,
                                "image/filename": f"{index}.png",
                                "label": label,
                                "label_name": classes[label],
                                "bbox": tfds.features.BBox(*bbox),
                                # Not decoded, as it is not used.
                                "segmentation_mask": b"none",
                            },
                        )

        tfds.disable_progress_bar()
        CaltechBirds2011(data_dir=folder, file_format=file_format).download_and_prepare()
