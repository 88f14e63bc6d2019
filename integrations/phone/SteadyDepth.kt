// Steady depth of a camera on Android: a LiteRT model, and the learned filter behind it in ONNX Runtime.
// In build.gradle: com.google.ai.edge.litert:litert and com.microsoft.onnxruntime:onnxruntime-android.
package org.steadydepth.sample

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import com.google.ai.edge.litert.Interpreter
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import kotlin.math.exp
import kotlin.math.ln
import org.json.JSONObject

/** One stream. [model] is depth.tflite, [filterFile] filter.onnx, [about] the text of web.json beside it. */
class SteadyDepth(model: ByteBuffer, filterFile: ByteArray, about: String) : AutoCloseable {
    private val described = JSONObject(about)
    val height = described.getInt("height")
    val width = described.getInt("width")
    private val claims = described.getString("claims")
    private val shapes = described.getJSONObject("filter_state")
    private val network = Interpreter(model, Interpreter.Options().setNumThreads(2))
    private val ort = OrtEnvironment.getEnvironment()
    private val filter = ort.createSession(filterFile)
    private var state: Map<String, FloatArray>? = null

    /** Forget what was seen: at a cut, after a pause. */
    fun reset() { state = null }

    /** Depth of one frame, row after row; [image] is RGB, 3 bytes a pixel, [height] rows of [width], a direct buffer. */
    fun step(image: ByteBuffer): FloatArray {
        val raw = ByteBuffer.allocateDirect(4 * height * width).order(ByteOrder.nativeOrder())
        image.rewind()
        network.run(image, raw)
        raw.rewind()
        val depth = FloatArray(height * width).also { raw.asFloatBuffer().get(it) }
        return smooth(image, depth)
    }

    private fun smooth(image: ByteBuffer, depth: FloatArray): FloatArray {
        val before = state ?: begin(depth)
        val size = longArrayOf(1, height.toLong(), width.toLong())
        image.rewind()
        val inputs = mutableMapOf(
            "image" to OnnxTensor.createTensor(ort, image, size + 3L, OnnxJavaType.UINT8),
            "raw" to tensor(depth, size),
            "strength" to tensor(floatArrayOf(described.getDouble("strength").toFloat()), longArrayOf(1)),
        )
        for (name in shapes.keys()) inputs["state_$name"] = tensor(before.getValue(name), shapeOf(name))
        filter.run(inputs).use { outputs ->
            // The unit of a video is that of its first frame: it goes in and does not come out.
            state = before.mapValues { (name, value) -> outputs["next_$name"].map { floats(it as OnnxTensor) }.orElse(value) }
            inputs.values.forEach { it.close() }
            return floats(outputs["depth"].get() as OnnxTensor)
        }
    }

    /** Zeros begin a video, but for the unit: what the filter takes for 0 and for 1. */
    private fun begin(depth: FloatArray): Map<String, FloatArray> =
        shapes.keys().asSequence().associateWith { name ->
            if (name == "unit") unitOf(depth) else FloatArray(shapeOf(name).fold(1L, Long::times).toInt())
        }

    private fun unitOf(depth: FloatArray): FloatArray {
        if (claims == "metric" || claims == "scale") {
            val logs = depth.filter { it > 0 && it.isFinite() }.map { ln(it.toDouble()) }
            return floatArrayOf(0f, if (logs.isEmpty()) 1f else exp(logs.average()).toFloat())
        }
        val sorted = depth.filter { it.isFinite() }.sorted()
        if (sorted.isEmpty()) return floatArrayOf(0f, 1f)
        val place = 0.01 * (sorted.size - 1)
        val low = place.toInt()
        val next = sorted[minOf(low + 1, sorted.size - 1)]
        val offset = sorted[low] + (place - low).toFloat() * (next - sorted[low])
        val least = 1e-6f * maxOf(-sorted.first(), sorted.last(), 0f) + 1e-12f
        return floatArrayOf(offset, maxOf(sorted.average().toFloat() - offset, least))
    }

    private fun shapeOf(name: String): LongArray {
        val shape = shapes.getJSONObject(name).getJSONArray("shape")
        return LongArray(shape.length()) { shape.getLong(it) }
    }

    private fun tensor(values: FloatArray, shape: LongArray) = OnnxTensor.createTensor(ort, FloatBuffer.wrap(values), shape)

    private fun floats(tensor: OnnxTensor) = FloatArray(tensor.floatBuffer.remaining()).also { tensor.floatBuffer.get(it) }

    override fun close() {
        filter.close()
        network.close()
    }
}
