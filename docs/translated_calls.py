"""Calls of other libraries, and the calls of this library with the same result.

Both sides are source text, which tests run with these variables: an ``image`` ``[H, W, 3]`` in
float32, the batch ``images`` of it alone, and its PyTorch form ``x``, ``[1, 3, H, W]``; the
output's shape ``(h, w)``; ``theta`` ``[1, 2, 3]``; ``m`` ``[2, 3]`` and ``homography`` ``[3, 3]``
between pixels; ``map_x`` and ``map_y`` ``[h, w]``; ``grid`` ``[1, h, w, 2]``; a ``box`` ``(x0, y0,
x1, y1)`` in pixels from the outer edges, and one as a ``share`` of the distance between the outer
centres; ``points`` and their targets ``moved``, ``[4, 2]``; ``corners`` of the input and their
places ``dragged`` in the output, ``[4, 2]``, row by row; ``voxels`` ``[2, H, W]``, ``(rows,
columns)`` to add to each pixel; ``places`` ``[5, 2]``; ``solid`` ``[5, 3]``, and two matrices of
space, ``turn`` and ``shift``, ``[4, 4]``; the ``spacing``, ``origin`` and ``direction`` of images
in space, and ``world``, :func:`stn_jax.conversions.world_from_itk` of them.
"""

from typing import NamedTuple


class Translation(NamedTuple):
    """A call of another library, and the call of this library with the same result."""

    library: str
    theirs: str
    ours: str


TRANSLATIONS = (
    Translation(
        "PyTorch",
        "F.affine_grid(theta, (1, 3, h, w), align_corners=False)",
        "jax.vmap(lambda matrix: stn.affine_grid(matrix, (h, w)))(theta)",
    ),
    Translation(
        "PyTorch",
        "F.grid_sample(x, grid, align_corners=False)",
        "jax.vmap(stn.grid_sample)(images, grid)",
    ),
    Translation(
        "PyTorch",
        'F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=True)',
        "jax.vmap(lambda image, grid: stn.grid_sample(image, grid, kernel=stn.cubic(a=-0.75), "
        'padding="border", align_corners=True))(images, grid)',
    ),
    Translation(
        "PyTorch",
        'F.grid_sample(x, grid, mode="nearest", padding_mode="reflection", align_corners=False)',
        'jax.vmap(lambda image, grid: stn.grid_sample(image, grid, kernel="nearest", '
        'padding="reflection"))(images, grid)',
    ),
    Translation(
        "PyTorch",
        'F.interpolate(x, (h, w), mode="bilinear", align_corners=False)',
        "jax.vmap(lambda image: stn.warp(image, stn.translation(), jnp.zeros(2), "
        'output_shape=(h, w), padding="border"))(images)',
    ),
    Translation(
        "PyTorch",
        'F.interpolate(x, (4, 5), mode="bilinear", antialias=True)',
        "jax.vmap(lambda image: stn.warp(image, stn.translation(), jnp.zeros(2), "
        'output_shape=(4, 5), padding="renormalized", antialias="kernel"))(images)',
    ),
    Translation(
        "PyTorch",
        'F.interpolate(x, (4, 5), mode="bicubic", antialias=True)',
        "jax.vmap(lambda image: stn.warp(image, stn.translation(), jnp.zeros(2), "
        'output_shape=(4, 5), kernel="cubic", padding="renormalized", antialias="kernel"))(images)',
    ),
    Translation(
        "torchvision",
        "ops.roi_align(x, [box[None]], (h, w), sampling_ratio=2, aligned=True)",
        "stn.warp(image, stn.affine(), geometry.crop_matrix(2 * box / jnp.array([W, H, W, H]) - 1)"
        '.ravel(), output_shape=(2 * h, 2 * w), padding="border").reshape(h, 2, w, 2, 3)'
        ".mean((1, 3))",
    ),
    Translation(
        "TensorFlow",
        "tf.image.crop_and_resize(images, share[None, [1, 0, 3, 2]], [0], (h, w))",
        "stn.warp(image, stn.affine(), geometry.crop_matrix(2 * share - 1).ravel(), "
        "output_shape=(h, w), align_corners=True)",
    ),
    Translation(
        "OpenCV",
        "cv2.getRotationMatrix2D((W / 2, H / 2), 30, 0.8)",
        "geometry.affine_matrix(angle=-jnp.deg2rad(30), scale=0.8, "
        "center=jnp.array([W / 2, H / 2]))",
    ),
    Translation(
        "OpenCV",
        "cv2.warpAffine(image, m, (w, h))",
        "stn.warp(image, stn.affine(), conversions.from_opencv(m, (H, W), (h, w), "
        "inverse_map=False).ravel(), output_shape=(h, w))",
    ),
    Translation(
        "OpenCV",
        "cv2.warpAffine(image, m, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "
        "borderMode=cv2.BORDER_REFLECT)",
        "stn.warp(image, stn.affine(), conversions.from_opencv(m, (H, W), (h, w)).ravel(), "
        'output_shape=(h, w), padding="reflection")',
    ),
    Translation(
        "OpenCV",
        "cv2.warpPerspective(image, homography, (w, h))",
        "stn.warp(image, stn.projective(), conversions.projective_theta(conversions.from_opencv("
        "homography, (H, W), (h, w), inverse_map=False)), output_shape=(h, w))",
    ),
    Translation(
        "OpenCV",
        "cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)",
        'stn.sample_pixels(image, jnp.stack([map_x, map_y], axis=-1), padding="wrap")',
    ),
    Translation(
        "OpenCV",
        "cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)",
        'stn.warp(image, stn.translation(), jnp.zeros(2), output_shape=(h, w), padding="border")',
    ),
    Translation(
        "OpenCV",
        "cv2.resize(image, (5, 4), interpolation=cv2.INTER_AREA)",
        'stn.warp(image, stn.translation(), jnp.zeros(2), output_shape=(4, 5), antialias="area")',
    ),
    Translation(
        "Kornia",
        "K.warp_affine(x, torch.tensor(m[None]), (h, w))",
        "stn.warp(image, stn.affine(), conversions.from_opencv(m, (H, W), (h, w), "
        "inverse_map=False).ravel(), output_shape=(h, w))",
    ),
    Translation(
        "Kornia",
        "K.warp_perspective(x, torch.tensor(homography[None]), (h, w))",
        "stn.warp(image, stn.projective(), conversions.projective_theta(conversions.from_opencv("
        "homography, (H, W), (h, w), inverse_map=False)), output_shape=(h, w))",
    ),
    Translation(
        "scikit-image",
        'transform.warp(image, homography, output_shape=(h, w), mode="edge")',
        "stn.warp(image, stn.projective(), conversions.projective_theta("
        "conversions.matrix_from_pixels(homography, (H, W), (h, w))), output_shape=(h, w), "
        'padding="border")',
    ),
    Translation(
        "scikit-image",
        'transform.warp(image, homography, output_shape=(h, w), order=3, mode="symmetric")',
        "stn.warp(image, stn.projective(), conversions.projective_theta("
        "conversions.matrix_from_pixels(homography, (H, W), (h, w))), output_shape=(h, w), "
        'kernel="cubic", padding="reflection", clip=True)',
    ),
    Translation(
        "scikit-image",
        'transform.resize(image, (4, 5), mode="symmetric", anti_aliasing=True)',
        "stn.warp(image, stn.translation(), jnp.zeros(2), output_shape=(4, 5), "
        'padding="reflection", antialias="gaussian")',
    ),
    Translation(
        "scikit-image",
        'transform.rotate(image, 30, mode="edge")',
        "stn.warp(image, stn.isotropic(stn.rigid(), aspect=W / H), "
        'jnp.array([jnp.deg2rad(30), 0, 0]), padding="border")',
    ),
    Translation(
        "scikit-image",
        'transform.estimate_transform("similarity", points, moved).params[:2]',
        "estimation.similarity(points, moved)",
    ),
    Translation(
        "JAX",
        'map_coordinates(image[..., 0], [map_y, map_x], order=1, mode="nearest")',
        "stn.grid_sample(image[..., :1], stn.normalized_from_pixels(jnp.stack([map_x, map_y], "
        'axis=-1), (H, W)), padding="border")[..., 0]',
    ),
    Translation(
        "JAX",
        'map_coordinates(image[..., 0], [map_y, map_x], order=1, mode="mirror")',
        "stn.grid_sample(image[..., :1], stn.normalized_from_pixels(jnp.stack([map_x, map_y], "
        "axis=-1), (H, W), align_corners=True), align_corners=True, "
        'padding="reflection")[..., 0]',
    ),
    Translation(
        "JAX",
        'jax.image.resize(image, (4, 5, 3), "lanczos3")',
        "stn.warp(image, stn.translation(), jnp.zeros(2), output_shape=(4, 5), "
        'kernel="lanczos3", padding="renormalized", antialias="kernel")',
    ),
    Translation(
        "Keras",
        "ops.image.affine_transform(images, np.pad(m.reshape(1, 6), ((0, 0), (0, 2))), "
        'fill_mode="nearest", data_format="channels_last")',
        "stn.warp(image, stn.affine(), conversions.matrix_from_pixels(m, (H, W), "
        '(H, W)).ravel(), padding="border")',
    ),
    Translation(
        "Keras",
        "ops.image.perspective_transform(images, corners[None], dragged[None], "
        'data_format="channels_last")',
        "stn.warp(image, stn.projective(), conversions.projective_theta("
        "conversions.from_opencv(cv2.getPerspectiveTransform(dragged, corners), (H, W), (H, W))))",
    ),
    Translation(
        "Keras",
        'ops.image.map_coordinates(image[..., 0], [map_y, map_x], order=1, fill_mode="nearest")',
        "stn.grid_sample(image[..., :1], stn.normalized_from_pixels(jnp.stack([map_x, map_y], "
        'axis=-1), (H, W)), padding="border")[..., 0]',
    ),
    Translation(
        "Pillow",
        "Image.fromarray(image[..., 0]).transform((w, h), Image.Transform.PERSPECTIVE, "
        "homography.ravel()[:8], Image.Resampling.BILINEAR)",
        "zero_outside(stn.warp(image[..., :1], stn.projective(), conversions.projective_theta("
        "conversions.matrix_from_pixels(homography, (H, W), (h, w), pixel_centers=0.5)), "
        'output_shape=(h, w), padding="border", return_coverage=True))[..., 0]',
    ),
    Translation(
        "torchvision",
        "TF.perspective(x, corners[[0, 1, 3, 2]].tolist(), dragged[[0, 1, 3, 2]].tolist())",
        "stn.warp(image, stn.projective(), conversions.projective_theta("
        "conversions.matrix_from_pixels(cv2.getPerspectiveTransform(dragged, corners), (H, W), "
        "(H, W), pixel_centers=0.5)))",
    ),
    Translation(
        "torchvision",
        "TF.rotate(x[:, :, :W], 30, TF.InterpolationMode.BILINEAR)",
        "stn.warp(image[:W], stn.rigid(), jnp.array([jnp.deg2rad(30), 0, 0]))",
    ),
    Translation(
        "Pillow",
        "Image.fromarray(image[..., 0]).resize((5, 4), Image.Resampling.BICUBIC)",
        "stn.warp(image[..., :1], stn.translation(), jnp.zeros(2), output_shape=(4, 5), "
        'kernel="cubic", padding="renormalized", antialias="kernel")[..., 0]',
    ),
    Translation(
        "torch-interpol",
        "grid_pull(x, voxels[None].movedim(1, -1) + identity_grid((H, W)), interpolation=1, "
        'bound="dst2", extrapolate=True)',
        "stn.warp(image, stn.flow((H, W)), conversions.offsets_from_voxels(jnp.moveaxis(voxels, "
        '0, -1)).ravel(), padding="dst2")',
    ),
    Translation(
        "ONNX Runtime",
        'run("GridSample", np.moveaxis(images, -1, 1), grid, mode="linear", '
        'padding_mode="border", align_corners=0)',
        'jax.vmap(lambda image, grid: stn.grid_sample(image, grid, padding="border"))(images, '
        "grid)",
    ),
    Translation(
        "SimpleITK",
        "sitk.GetArrayFromImage(sitk.Resample(sitk.GetImageFromArray(image[..., 0]), "
        "sitk.AffineTransform(m[:, :2].ravel().tolist(), m[:, 2].tolist())))",
        "zero_outside(stn.warp(image[..., :1], stn.affine(), conversions.matrix_from_pixels(m, "
        '(H, W), (H, W)).ravel(), padding="border", return_coverage=True))[..., 0]',
    ),
    Translation(
        "SimpleITK",
        "sitk.GetArrayFromImage(sitk.Resample(placed(image[..., 0]), placed(np.zeros((h, w))), "
        "sitk.AffineTransform(m[:, :2].ravel().tolist(), m[:, 2].tolist(), [2.0, 3.0])))",
        "zero_outside(stn.warp(image[..., :1], stn.affine(), conversions.matrix_from_world("
        "conversions.matrix_about_center(m[:, :2], m[:, 2], np.float32([2, 3])), world, world, "
        '(H, W), (h, w)).ravel(), output_shape=(h, w), padding="border", return_coverage=True))'
        "[..., 0]",
    ),
    Translation(
        "SimpleITK",
        "sitk.GetArrayFromImage(sitk.Resample(placed(image[..., 0]), "
        "sitk.DisplacementFieldTransform(placed(np.moveaxis(voxels, 0, -1), True))))",
        "zero_outside(stn.warp(image[..., :1], stn.flow((H, W)), conversions.offsets_from_world("
        'np.moveaxis(voxels, 0, -1), world, world).ravel(), padding="border", '
        "return_coverage=True))[..., 0]",
    ),
    Translation(
        "SciPy",
        "ndimage.affine_transform(image[..., 0], m[:, :2], m[:, 2], (h, w), order=1, "
        'mode="nearest")',
        "stn.warp(image[..., :1], stn.affine(), conversions.matrix_from_pixels("
        "conversions.reverse_axes(m), (H, W), (h, w)).ravel(), output_shape=(h, w), "
        'padding="border")[..., 0]',
    ),
    Translation(
        "OpenCV",
        "cv2.remap(image, np.indices((H, W), np.float32)[1] + voxels[0], "
        "np.indices((H, W), np.float32)[0] + voxels[1], cv2.INTER_LINEAR)",
        "stn.warp(image, stn.flow((H, W)), conversions.offsets_from_optical_flow("
        "np.moveaxis(voxels, 0, -1)).ravel())",
    ),
    Translation(
        "NumPy",
        "np.stack(np.gradient(np.moveaxis(voxels, 0, -1), axis=(0, 1)), -1)[..., ::-1, ::-1]",
        "fields.jacobian(conversions.offsets_from_voxels(np.moveaxis(voxels, 0, -1))) * "
        "jnp.array([[1, W / H], [H / W, 1]]) - jnp.eye(2)",
    ),
    Translation(
        "MONAI",
        "AffineTransform((h, w), normalized=False, mode='bilinear', padding_mode='border', "
        "align_corners=True)(x, torch.tensor(m[None]))",
        "stn.warp(image, stn.affine(), conversions.matrix_from_pixels("
        "conversions.reverse_axes(m), (H, W), (h, w)).ravel(), output_shape=(h, w), "
        'padding="border")',
    ),
    Translation(
        "MONAI",
        'Warp("bilinear", "border")(x, voxels[None])',
        "stn.warp(image, stn.flow((H, W)), conversions.offsets_from_voxels(jnp.moveaxis(voxels, "
        '0, -1)).ravel(), padding="border")',
    ),
    Translation(
        "VoxelMorph",
        'spatial_transform(x, voxels, padding_mode="border")',
        "stn.warp(image, stn.flow((H, W)), conversions.offsets_from_voxels(jnp.moveaxis(voxels, "
        '0, -1)).ravel(), padding="border")',
    ),
    Translation(
        "NiTransforms",
        "TransformChain([Affine(turn), Affine(shift)]).map(solid)",
        "stn.chain(stn.affine(ndim=3), stn.affine(ndim=3)).apply(jnp.stack([turn[:3], shift[:3]])"
        ".ravel(), solid)",
    ),
    Translation(
        "SimpleITK",
        "np.stack([sitk.CompositeTransform([sitk_affine(turn), sitk_affine(shift)])"
        ".TransformPoint(p) for p in solid.tolist()])",
        "stn.chain(stn.affine(ndim=3), stn.affine(ndim=3)).apply(jnp.stack([shift[:3], turn[:3]])"
        ".ravel(), solid)",
    ),
    Translation(
        "SciPy",
        'interpolate.RBFInterpolator(points, moved, kernel="thin_plate_spline")(places)',
        "stn.thin_plate_spline(control_points=points).apply(moved.ravel(), places)",
    ),
    Translation(
        "SciPy",
        'ndimage.map_coordinates(image[..., 0], [map_y, map_x], order=1, mode="nearest")',
        "stn.sample_pixels(image[..., :1], jnp.stack([map_x, map_y], axis=-1), "
        'padding="border")[..., 0]',
    ),
)

# The imports of each library. Only OpenCV and SciPy are installed everywhere.
IMPORTS = {
    "PyTorch": "import torch\nimport torch.nn.functional as F",
    "TensorFlow": "import tensorflow as tf",
    "OpenCV": "import cv2",
    "Kornia": "import torch\nimport kornia.geometry.transform as K",
    "scikit-image": "from skimage import transform",
    "SciPy": "from scipy import interpolate, ndimage",
    "JAX": "import jax\nfrom jax.scipy.ndimage import map_coordinates",
    "Keras": "import os\nos.environ.setdefault('KERAS_BACKEND', 'jax')\nfrom keras import ops",
    "Pillow": "from PIL import Image",
    "torch-interpol": "import torch\nfrom interpol import grid_pull, identity_grid",
    "torchvision": "import torch\nfrom torchvision import ops\n"
    "import torchvision.transforms.v2.functional as TF",
    "ONNX Runtime": """
import onnx
import onnxruntime

def run(operator, *inputs, **attributes):
    names = [f"input_{k}" for k in range(len(inputs))]
    node = onnx.helper.make_node(operator, names, ["output"], **attributes)
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, each.shape)
        for name, each in zip(names, inputs)
    ]
    output = onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node], operator, values, [output])
    opset = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, dict(zip(names, inputs)))[0]
""",
    "SimpleITK": """
import SimpleITK as sitk

def placed(array, is_vector=False):
    image = sitk.GetImageFromArray(np.asarray(array, float), isVector=is_vector)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image

def sitk_affine(matrix):
    return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
""",
    "MONAI": "import torch\nfrom monai.networks.blocks import Warp\n"
    "from monai.networks.layers import AffineTransform",
    "NumPy": "",
    "VoxelMorph": "import torch\nfrom voxelmorph.nn.functional import spatial_transform",
    "NiTransforms": "from nitransforms.linear import Affine\n"
    "from nitransforms.manip import TransformChain",
}
